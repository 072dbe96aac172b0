"""Where the views are."""

from django.urls import path

from tests.django.project import views

urlpatterns = [
    path("balance/<int:number>", views.balance),
    path("transfer/<int:giver>/<int:taker>/<int:amount>", views.transfer),
    path("fail/<int:number>", views.fail),
    path("abandon/<int:number>", views.abandon),
]
